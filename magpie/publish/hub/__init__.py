"""The way to the Hub: what goes there, whether it may, and a push that can be stopped anywhere and run again."""
