"""Records and the checkpoint to Kafka, in one transaction; and the checkpoint back."""
