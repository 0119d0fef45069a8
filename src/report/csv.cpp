#include "llmft/report/csv.hpp"

#include "llmft/base/text.hpp"

namespace llmft {

std::string csv_field(std::string_view text) {
  if (text.find_first_of(",\"\r\n") == std::string_view::npos) return std::string(text);
  std::string out = "\"";
  for (char c : text) {
    if (c == '"') out += '"';
    out += c;
  }
  return out + '"';
}

std::string csv_header(const std::vector<CsvColumn>& columns) {
  std::string out;
  for (const CsvColumn& column : columns) out += (out.empty() ? "" : ",") + csv_field(column.name);
  return out;
}

std::string csv_row(const std::vector<CsvColumn>& columns) {
  std::string out;
  for (size_t i = 0; i < columns.size(); ++i) out += (i == 0 ? "" : ",") + csv_field(columns[i].value);
  return out;
}

std::string csv_number(const std::optional<double>& value) {
  return value ? number(*value) : "";
}

}  // namespace llmft
