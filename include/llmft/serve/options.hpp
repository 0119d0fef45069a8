// What `llmft serve` can be told about the server itself.
#pragma once

#include <cstdint>
#include <string>
#include <vector>

#include "llmft/config/options.hpp"

namespace llmft {

struct ServeOptions {
  std::string host = "127.0.0.1";
  int64_t port = 7860;                     // 0: any free one
  std::string api_key;                     // empty: none is asked for
  std::vector<std::string> allowed_hosts;  // names under which a loopback server may be asked for
  int64_t queue = 256;                     // requests that wait, beyond those that run
  int64_t max_tokens = 0;                  // of an answer; 0: what the context leaves
  int64_t connections = 512;
  int64_t body_bytes = 4 << 20;
  double request_seconds = 20;
  double write_seconds = 30;
  double idle_seconds = 75;
};

void describe(OptionSet& set, ServeOptions& options);

}  // namespace llmft
