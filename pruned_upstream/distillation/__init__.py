"""What a student learns from its teacher's layers: which layers are compared, and by which loss."""
