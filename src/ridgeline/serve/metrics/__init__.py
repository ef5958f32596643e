"""What a server tells of itself: metrics, requests explained, a live view, an access log."""
