"""The description of the HTTP interface at /docs: Swagger UI from local files, with the token of this tab."""
