"""The HTTP server of an export: requests in, ranked slates out, several requests per pass of the model."""
