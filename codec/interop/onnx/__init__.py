"""Export of a codec to ONNX graphs."""
