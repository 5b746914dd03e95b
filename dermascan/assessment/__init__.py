"""What is found out about a trained model before anybody may use it."""
