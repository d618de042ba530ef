-- Stands for Kong's module of the same name, in tests.
return {
  no_consumer = { type = "foreign", reference = "consumers" },
  protocols_http = { type = "set", elements = { type = "string" } },
}
