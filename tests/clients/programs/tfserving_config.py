"""Reads the list of models that TF Serving starts with, by its own schema.

python tfserving_config.py MODELS_CONFIG
"""

import json
import sys
from pathlib import Path

from google.protobuf import json_format, text_format
from tensorflow_serving.config import model_server_config_pb2

config = text_format.Parse(
    Path(sys.argv[1]).read_text(encoding="utf-8"), model_server_config_pb2.ModelServerConfig()
)
print(json.dumps(json_format.MessageToDict(config, preserving_proto_field_name=True)))
