"""The HTTP API that scores uploaded images with the champion, and the page in front of it."""
