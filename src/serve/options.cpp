#include "llmft/serve/options.hpp"

namespace llmft {

void describe(OptionSet& set, ServeOptions& options) {
  set.add("serve.host", options.host, "address to listen on; 0.0.0.0 for all of this machine's",
          {.flag = "--host", .value_name = "ADDRESS"});
  set.add("serve.port", options.port, "port to listen on; 0: any free one",
          {.flag = "--port", .min = 0, .max = 65535});
  set.add("serve.api_key", options.api_key,
          "clients must send 'Authorization: Bearer KEY'; better in the environment, as LLMFT_API_KEY, where "
          "other "
          "users do not see it",
          {.flag = "--api-key", .value_name = "KEY"});
  set.add("serve.allowed_hosts", options.allowed_hosts,
          "names under which a proxy may ask a server that listens on loopback (besides localhost)",
          {.value_name = "NAME,..."});
  set.add("serve.queue", options.queue, "requests that may wait for their turn; more get 429",
          {.flag = "--queue", .min = 0, .max = 1e6});
  set.add("serve.max_tokens", options.max_tokens,
          "longest answer that may be asked for, in tokens; 0: what the context leaves",
          {.min = 0, .max = 1e9});
  set.add("serve.connections", options.connections, "clients connected at a time; more get 503",
          {.min = 1, .max = 60000});
  set.add("serve.body_bytes", options.body_bytes, "largest request; larger ones get 413",
          {.min = 1024, .max = 1 << 30});
  set.add("serve.request_seconds", options.request_seconds,
          "time for a request to arrive; slower ones get 408", {.min = 0.1, .max = 3600});
  set.add("serve.write_seconds", options.write_seconds,
          "time a client may take nothing of what is sent to it; then it is cut off",
          {.min = 0.1, .max = 3600});
  set.add("serve.idle_seconds", options.idle_seconds, "time a connection may stay open without a request",
          {.min = 0.1, .max = 86400});
}

}  // namespace llmft
