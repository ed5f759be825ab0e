"""What the user says, and where it was said."""
