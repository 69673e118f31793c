"""How models are run: on a Triton Inference Server, or by ONNX Runtime in the worker's own process."""
