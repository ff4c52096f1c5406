"""Files to files: audio into .ecdc and back, in blocks of bounded memory."""
