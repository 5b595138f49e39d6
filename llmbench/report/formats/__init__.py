"""Tables and documents as text, pages and files."""
