"""The names of a tokenizer's files, as transformers and OpenAI's releases have them. Loads no library."""

TOKENIZER_FILE = "tokenizer.json"
CONFIGURATION_FILE = "tokenizer_config.json"
SPECIAL_TOKENS_FILE = "special_tokens_map.json"
ADDED_TOKENS_FILE = "added_tokens.json"
CHAT_TEMPLATE_FILE = "chat_template.jinja"
CHAT_TEMPLATE_FOLDER = "additional_chat_templates"
# Hugging Face's names, then those of OpenAI's releases (github.com/openai/gpt-2, src/encoder.py, and
# github.com/openai/finetune-transformer-lm, model/).
VOCABULARY_AND_MERGES = (
    ("vocab.json", "merges.txt"),
    ("encoder.json", "vocab.bpe"),
    ("encoder_bpe_40000.json", "vocab_40000.bpe"),
)
# All that may stand in a model directory; the folder aside.
TOKENIZER_FILES = (
    TOKENIZER_FILE,
    CONFIGURATION_FILE,
    SPECIAL_TOKENS_FILE,
    ADDED_TOKENS_FILE,
    CHAT_TEMPLATE_FILE,
    *(name for pair in VOCABULARY_AND_MERGES for name in pair),
)
# What `Tokenizer.save_pretrained` writes.
SAVED_FILES = (TOKENIZER_FILE, CONFIGURATION_FILE, CHAT_TEMPLATE_FILE, CHAT_TEMPLATE_FOLDER)
