// Reading a request's JSON: fields of the expected type and range, or an ApiError that names the field.
#pragma once

#include <cstdint>
#include <string>

#include <nlohmann/json.hpp>

namespace llmft {

[[noreturn]] void invalid(const std::string& param, const std::string& message, const char* code = "");
[[noreturn]] void unsupported(const std::string& param, const std::string& message);

// For messages: a scalar's text, cut; of what nests the type's name alone, since a dump recurses as deep as
// the client likes.
std::string shown(const nlohmann::json& value);

// A field, or null where it is absent; null and absent mean the same everywhere in this API.
const nlohmann::json& field(const nlohmann::json& object, const char* name);
double real(const nlohmann::json& object, const char* name, double fallback, double min, double max);
int64_t integer(const nlohmann::json& object, const char* name, int64_t fallback, int64_t min, int64_t max);
bool boolean(const nlohmann::json& object, const char* name);  // false where it is absent

}  // namespace llmft
