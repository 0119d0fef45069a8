// Small text helpers: numbers that round-trip, human-readable sizes, nearest names.
#pragma once

#include <cstdint>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace llmft {

// Shortest text that reads back to the same bits: equal bits print equal, unequal bits print unequal.
// "nan", "inf", "-inf" for the rest.
std::string number(double value);
std::string number(float value);

// "1.50 GiB", "312 B".
std::string human_bytes(double bytes);
// "12.3k", "1.24B": counts for people.
std::string human_count(double count);
// "1:02:03", "4:07", "12.3 s".
std::string human_seconds(double seconds);

std::vector<std::string> split(std::string_view text, char separator);
std::string_view trim(std::string_view text);
std::string join(std::span<const std::string> parts, std::string_view separator);

// The whole of text as a number, or nothing.
std::optional<int64_t> parse_int(std::string_view text);
std::optional<double> parse_double(std::string_view text);

// The name nearest to word by edit distance, or "" when none is near (more than a third of its length away).
std::string nearest_name(std::string_view word, std::span<const std::string> names);

// Length in bytes of the longest prefix that is valid UTF-8 (no overlongs, no surrogates): text.size() if all
// is.
size_t valid_utf8_prefix(std::string_view text);

// Length in bytes of the blank character that text starts with, 0 if it starts with none. Blank is what
// Python's str.isspace() calls so: Unicode white space and U+001C..U+001F.
size_t leading_blank(std::string_view text);

}  // namespace llmft
