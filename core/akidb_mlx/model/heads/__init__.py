"""What makes a text's result of its hidden states."""
