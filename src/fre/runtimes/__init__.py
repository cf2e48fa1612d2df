"""ONNX Runtime and OpenVINO behind one protocol, and the choice of the faster one."""
