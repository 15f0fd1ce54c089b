"""Reading and writing model directories: weight rules, safetensors, the hub."""
