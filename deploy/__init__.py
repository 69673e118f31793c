"""What a deployment needs beside the programs."""
