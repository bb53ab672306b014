"""What runs inside a Triton server: the python models of the model repository."""
