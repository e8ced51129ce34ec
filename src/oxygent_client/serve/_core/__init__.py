"""What all protocols share: admission, one run per inbound request, access checks, errors by outcome."""
