"""How each version of the Images API spells what the guard has to say."""
