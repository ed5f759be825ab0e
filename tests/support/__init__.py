"""What several tests share. It says where files are, so that a test may stand in any folder."""
