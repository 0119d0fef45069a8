// Who may use the server: the key, and what browsers tell of where a request comes from.
#pragma once

#include <string>
#include <string_view>
#include <vector>

#include "llmft/serve/http_server.hpp"

namespace llmft {

// Takes as long for a wrong text as for the right one; depends on the length of `given` alone.
bool equal_in_constant_time(std::string_view given, std::string_view secret);

class Access {
 public:
  // host: what the server listens on; on loopback only requests for a loopback name or an allowed one are
  // answered, so that a page of another site whose name was made to resolve to 127.0.0.1 gets nothing.
  Access(const std::string& host, std::vector<std::string> allowed_hosts, std::string api_key);

  // ApiError 403 or 401. The key is asked for by everything but the page and /health.
  void check(const HttpRequest& request) const;

 private:
  bool loopback_;
  std::vector<std::string> allowed_hosts_;
  std::string api_key_;
};

}  // namespace llmft
