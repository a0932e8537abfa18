"""Files of records that people bring, whatever their shape: which files, how they are read, who says what in them."""
