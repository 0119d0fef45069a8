// A line of a CSV table (RFC 4180, but lines end in "\n"), its columns named beside their values so that
// header and rows cannot drift apart.
#pragma once

#include <optional>
#include <string>
#include <string_view>
#include <vector>

namespace llmft {

// Quoted when it has a comma, a quote or a line end.
std::string csv_field(std::string_view text);

struct CsvColumn {
  const char* name;
  std::string value;  // not yet quoted
};
// Joined by commas, without a line end.
std::string csv_header(const std::vector<CsvColumn>& columns);
std::string csv_row(const std::vector<CsvColumn>& columns);

// number(), or empty for none.
std::string csv_number(const std::optional<double>& value);

}  // namespace llmft
