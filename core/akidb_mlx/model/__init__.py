"""From a checkpoint's facts to a live model."""
