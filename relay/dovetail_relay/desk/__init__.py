"""The desk: operators' commands that change what goes out, done by the leader step by step between its batches."""
