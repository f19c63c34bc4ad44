"""Looking after caches: what one holds, whether it is whole, and how several become one."""
