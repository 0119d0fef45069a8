// OpenAI's error object, as an exception.
#pragma once

#include <stdexcept>
#include <string>

namespace llmft {

struct ApiError : std::runtime_error {
  ApiError(int http_status, const std::string& message, std::string parameter = "",
           std::string error_code = "")
      : std::runtime_error(message),
        status(http_status),
        param(std::move(parameter)),
        code(std::move(error_code)) {}
  int status;
  std::string param;  // "": null
  std::string code;   // "": null
};

// {"error": {"message": ..., "type": ..., "param": ..., "code": ...}}; the type follows from the status.
std::string error_json(const ApiError& error);

}  // namespace llmft
