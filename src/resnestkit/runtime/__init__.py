"""What runs exported models without torch: NumPy and Pillow, and OpenVINO or ONNX Runtime."""
