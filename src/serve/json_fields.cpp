#include "json_fields.hpp"

#include <cmath>

#include <fmt/format.h>

#include "api_error.hpp"

namespace llmft {

using nlohmann::json;

void invalid(const std::string& param, const std::string& message, const char* code) {
  throw ApiError(400, message, param, code);
}
void unsupported(const std::string& param, const std::string& message) {
  invalid(param, fmt::format("'{}': {}", param, message), "unsupported_parameter");
}

std::string shown(const json& value) {
  if (value.is_structured()) return value.type_name();
  std::string text = value.dump(-1, ' ', false, json::error_handler_t::replace);
  return text.size() <= 100 ? text : text.substr(0, 97) + "...";
}

const json& field(const json& object, const char* name) {
  static const json kNull;
  auto found = object.find(name);
  return found == object.end() ? kNull : *found;
}

double real(const json& object, const char* name, double fallback, double min, double max) {
  const json& value = field(object, name);
  if (value.is_null()) return fallback;
  if (!value.is_number())
    invalid(name, fmt::format("'{}' must be a number, not {}", name, value.type_name()));
  double number = value.get<double>();
  if (!(number >= min && number <= max))
    invalid(name, fmt::format("'{}' must be from {} to {}, not {}", name, min, max, shown(value)));
  return number;
}

int64_t integer(const json& object, const char* name, int64_t fallback, int64_t min, int64_t max) {
  const json& value = field(object, name);
  if (value.is_null()) return fallback;
  double number = value.is_number() ? value.get<double>() : std::nan("");
  if (number != std::floor(number))
    invalid(name, fmt::format("'{}' must be an integer, not {}", name, shown(value)));
  if (number < static_cast<double>(min) || number > static_cast<double>(max))
    invalid(name, fmt::format("'{}' must be from {} to {}, not {}", name, min, max, shown(value)));
  return static_cast<int64_t>(number);
}

bool boolean(const json& object, const char* name) {
  const json& value = field(object, name);
  if (value.is_null()) return false;
  if (!value.is_boolean())
    invalid(name, fmt::format("'{}' must be true or false, not {}", name, value.type_name()));
  return value.get<bool>();
}

}  // namespace llmft
