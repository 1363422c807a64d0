"""Models compared: entries times seeds trained on the same features, judged, and put in tables."""
