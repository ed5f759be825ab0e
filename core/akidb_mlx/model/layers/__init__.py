"""What two or more architectures share."""
