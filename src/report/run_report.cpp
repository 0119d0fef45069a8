#include "llmft/report/run_report.hpp"

#include <cmath>

#include <nlohmann/json.hpp>

#include "llmft/base/file.hpp"

namespace llmft {
namespace {

using Json = nlohmann::ordered_json;

Json to_value(const ReportValue& value) {
  return std::visit([](const auto& v) { return Json(v); }, value);
}

Json text_or_null(const std::string& text) {
  return text.empty() ? Json() : Json(text);
}

}  // namespace

std::string to_json(const RunReport& report) {
  Json json = {{"format", kRunReportFormat}, {"version", report.build.version}, {"command", report.command},
               {"started", report.started},  {"finished", report.finished},     {"hosts", report.hosts},
               {"ranks", report.ranks},      {"nodes", report.nodes},           {"device", report.device}};
  json["build"] = {{"version", report.build.version},
                   {"compiler", report.build.compiler},
                   {"cuda", text_or_null(report.build.cuda)},
                   {"git", text_or_null(report.build.git)}};
  json["machine"] = {{"host", report.machine.host},
                     {"cpu", report.machine.cpu},
                     {"cores", report.machine.cores},
                     {"usable_cores", report.machine.usable_cores},
                     {"memory_bytes", report.machine.memory_bytes}};
  json["config_hash"] = report.config_hash;
  json["results"] = Json::object();
  for (const auto& [key, value] : report.results) json["results"][key] = to_value(value);
  // a host or CPU name that is no UTF-8 must not end a run
  return json.dump(2, ' ', false, Json::error_handler_t::replace) + "\n";
}

void write_run_report(const std::filesystem::path& path, const RunReport& report) {
  write_file_atomic(path, to_json(report));
}

}  // namespace llmft
