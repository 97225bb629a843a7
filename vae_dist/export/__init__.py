"""A trained run in forms that others use: safetensors, torch.export, ONNX, the Hugging Face Hub."""
