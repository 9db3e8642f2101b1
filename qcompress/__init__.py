"""qcompress: compress ONNX models with a report you can gate on."""
