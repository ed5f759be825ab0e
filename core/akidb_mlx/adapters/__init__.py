"""What the frameworks' adapters share."""
