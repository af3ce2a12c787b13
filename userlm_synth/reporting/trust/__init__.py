"""What a reader has to know before using dialogues: copies, echoes, insults, secrets, bad form."""
