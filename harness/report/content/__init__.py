"""What a report says, whatever it is printed as."""
