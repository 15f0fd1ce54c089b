"""Reads a model repository as Triton's own schema does: prints {model: its configuration}.

python triton_config.py REPOSITORY
"""

import json
import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tritonclient.grpc import model_config_pb2

found = {}
for path in sorted(Path(sys.argv[1]).glob("*/config.pbtxt")):
    # A field that the schema does not have, or of another type, is an error.
    config = text_format.Parse(path.read_text(encoding="utf-8"), model_config_pb2.ModelConfig())
    found[path.parent.name] = json_format.MessageToDict(config, preserving_proto_field_name=True)
print(json.dumps(found))
