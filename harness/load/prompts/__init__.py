"""The prompts of a load: a user's file in any known format, the order of sending, conversations, lengths."""
