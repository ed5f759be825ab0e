"""The checkpoint's facts with the user's word on top."""
