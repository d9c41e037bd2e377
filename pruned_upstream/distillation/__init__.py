"""What a student learns from its teacher: which layers are compared, by which loss, and how a shallow one starts."""
