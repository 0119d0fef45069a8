#include "api_error.hpp"

#include <nlohmann/json.hpp>

namespace llmft {
namespace {

const char* type_of(int status) {
  switch (status) {
    case 401:
      return "authentication_error";
    case 403:
      return "permission_error";
    case 404:
      return "not_found_error";
    case 429:
      return "rate_limit_error";
    default:
      return status >= 500 ? "server_error" : "invalid_request_error";
  }
}

nlohmann::json or_null(const std::string& text) {
  return text.empty() ? nlohmann::json() : nlohmann::json(text);
}

}  // namespace

std::string error_json(const ApiError& error) {
  nlohmann::json body;
  body["error"] = {{"message", error.what()},
                   {"type", type_of(error.status)},
                   {"param", or_null(error.param)},
                   {"code", or_null(error.code)}};
  // what a client sent may stand in the message, and need not be UTF-8
  return body.dump(-1, ' ', false, nlohmann::json::error_handler_t::replace);
}

}  // namespace llmft
