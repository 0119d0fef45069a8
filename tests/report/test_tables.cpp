#include <cmath>
#include <filesystem>
#include <fstream>
#include <functional>
#include <limits>
#include <thread>

#include <doctest/doctest.h>
#include <nlohmann/json.hpp>
#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"
#include "llmft/report/csv.hpp"
#include "llmft/report/machine.hpp"
#include "llmft/report/run_report.hpp"
#include "llmft/report/step_log.hpp"
#include "llmft/report/tables.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

const std::string kStepHeader =
    "step,epoch,loss,lr,grad_norm,tokens_per_s,supervised_tokens_per_s,tokens,supervised_tokens,step_time_s,"
    "data_wait_s,imbalance,loss_scale,skipped,mfu,valid_loss\n";

struct Folder {
  fs::path path = fs::temp_directory_path() / ("llmft_report." + std::to_string(::getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  fs::path operator/(const char* name) const { return path / name; }
};

StepRow step_row(int64_t step) {
  StepRow row;
  row.step = step;
  row.epoch = 0.25;
  row.loss = 1.0 / 3 + static_cast<double>(step);
  row.lr = 1e-4;
  row.tokens = 4096;
  return row;
}

void put(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

std::string message_of(const std::function<void()>& action) {
  try {
    action();
  } catch (const UserError& e) {
    return e.what();
  }
  return "";
}

}  // namespace

TEST_CASE("CSV fields are quoted where they must be") {
  CHECK(csv_field("plain text") == "plain text");
  CHECK(csv_field("a,b") == "\"a,b\"");
  CHECK(csv_field("say \"x\"") == "\"say \"\"x\"\"\"");
  CHECK(csv_field("two\nlines") == "\"two\nlines\"");
  CHECK(csv_number(std::nullopt).empty());
  CHECK(csv_number(0.5) == "0.5");
}

TEST_CASE("steps.csv: the columns of the contract, each row in the file when append returns") {
  Folder folder;
  StepLog log(folder / "steps.csv");
  CHECK(read_file(folder / "steps.csv") == kStepHeader);
  CHECK(!log.first_loss());
  StepRow row;
  row.step = 1;
  row.epoch = 0.5;
  row.loss = 0.1 + 0.2;
  row.lr = 2e-4;
  row.grad_norm = std::numeric_limits<double>::infinity();
  row.tokens_per_s = 1000;
  row.supervised_tokens_per_s = 300.5;
  row.tokens = 2048;
  row.supervised_tokens = 600;
  row.step_time_s = 2;
  row.data_wait_s = 0;
  log.append(row);
  std::string first = "1,0.5,0.30000000000000004,2e-04,inf,1000,300.5,2048,600,2,0,0,,0,,\n";
  CHECK(read_file(folder / "steps.csv") == kStepHeader + first);
  row.step = 2;
  row.loss_scale = 65536;
  row.skipped = true;
  row.mfu = 0.4;
  row.valid_loss = 1.25;
  row.grad_norm = 3;
  log.append(row);
  CHECK(read_file(folder / "steps.csv") ==
        kStepHeader + first +
            "2,0.5,0.30000000000000004,2e-04,3,1000,300.5,2048,600,2,0,0,65536,1,0.4,1.25\n");
  CHECK(log.first_loss() == 0.1 + 0.2);
  CHECK(parse_double("0.30000000000000004") == 0.1 + 0.2);
}

TEST_CASE("a resumed run continues the table where its checkpoint was") {
  Folder folder;
  fs::path path = folder / "steps.csv";
  {
    StepLog log(path);
    for (int64_t step = 1; step <= 12; ++step) log.append(step_row(step));
  }
  const std::string whole = read_file(path);
  auto resumed = [&](const std::string& before, int64_t last_step) {
    put(path, before);
    StepLog log(path, last_step);
    for (int64_t step = last_step + 1; step <= 12; ++step) log.append(step_row(step));
    CHECK(log.first_loss() == step_row(1).loss);
    return read_file(path);
  };
  CHECK(resumed(whole, 12) == whole);
  CHECK(resumed(whole, 9) == whole);  // 10, 11 and 12 are not compared as text
  CHECK(resumed(whole, 0) == whole);
  for (size_t torn = 1; torn < 40; ++torn) CHECK(resumed(whole.substr(0, whole.size() - torn), 11) == whole);
  CHECK(resumed(whole + std::string(100, '\0'), 12) ==
        whole);  // what a crashed machine's file system may leave
  CHECK(resumed("", 0) == whole);
  fs::remove(path);
  StepLog(path, 5).append(step_row(6));
  CHECK(read_file(path).starts_with(kStepHeader + "6,"));
  StepLog anew(path);
  CHECK(read_file(path) == kStepHeader);
}

TEST_CASE("a table that is not ours is refused and left as it was") {
  Folder folder;
  fs::path path = folder / "steps.csv";
  for (const std::string& text : {std::string("step,loss\n1,2\n"), kStepHeader + "x,0,0\n",
                                  kStepHeader + "1,2\n", kStepHeader + "\n"}) {
    put(path, text);
    CHECK(message_of([&] { StepLog log(path, 5); }).find("steps.csv") != std::string::npos);
    CHECK(read_file(path) == text);
  }
  CHECK(message_of([] { StepLog log("/nowhere/steps.csv"); }).find("/nowhere/steps.csv") !=
        std::string::npos);
}

TEST_CASE("phases add up and may nest") {
  PhaseTimer timer;
  for (int i = 0; i < 3; ++i) {
    auto outer = timer.scope("step");
    auto inner = timer.scope("forward");
    for (int j = 0; j < 40; ++j) auto scope = timer.scope("phase " + std::to_string(j));
    std::this_thread::sleep_for(std::chrono::milliseconds(2));
  }
  timer.add("gather", 1.5, 7);
  timer.add("gather", 0.25);
  CHECK(timer.phases().size() == 43);
  CHECK(timer.phases()[0].name == "step");
  CHECK(timer.phases()[0].count == 3);
  CHECK(timer.seconds("forward") >= 0.006);
  CHECK(timer.seconds("step") >= timer.seconds("forward"));
  CHECK(timer.seconds("gather") == 1.75);
  CHECK(timer.seconds("never") == 0);
  timer.reset();
  timer.add("data, wait", 0.5, 2);
  CHECK(timing_rows(3, timer) == "3,\"data, wait\",0.5,2\n");
}

TEST_CASE("timing.csv and memory.csv from the ranks' rows") {
  Folder folder;
  PhaseTimer timer;
  timer.add("forward", 1.25, 10);
  timer.add("backward", 2.5, 10);
  std::vector<std::string> timings{timing_rows(0, timer), timing_rows(1, timer)};
  write_timing_table(folder / "timing.csv", timings);
  CHECK(read_file(folder / "timing.csv") ==
        "rank,phase,seconds,count\n0,forward,1.25,10\n0,backward,2.5,10\n1,forward,1.25,10\n1,backward,2.5,"
        "10\n");
  std::vector<MemoryRow> rows{{"weights", uint64_t{1} << 40}, {"total", 5}};
  std::vector<std::string> memory{memory_rows(0, rows), memory_rows(1, {})};
  write_memory_table(folder / "memory.csv", memory);
  CHECK(read_file(folder / "memory.csv") == "rank,part,bytes\n0,weights,1099511627776\n0,total,5\n");
}

TEST_CASE("run.json at the start and at the end") {
  Folder folder;
  RunReport report;
  report.command = "train";
  report.started = "2026-01-31T12:00:00Z";
  report.hosts = {"node1", "node2"};
  report.ranks = 4;
  report.nodes = 2;
  report.device = "a \"CPU\" \xff";  // not UTF-8
  report.config_hash = "abc";
  write_run_report(folder / "run.json", report);
  auto json = nlohmann::json::parse(read_file(folder / "run.json"));
  CHECK(json["format"] == kRunReportFormat);
  CHECK(json["finished"] == false);
  CHECK(json["hosts"] == nlohmann::json({"node1", "node2"}));
  CHECK(json["ranks"] == 4);
  CHECK(json["nodes"] == 2);
  CHECK(json["build"]["cuda"].is_null());
  CHECK(json["machine"]["memory_bytes"] > 0);
  CHECK(json["results"] == nlohmann::json::object());

  report.finished = true;
  report.results = {{"loss_last", 0.5},
                    {"steps", int64_t{10}},
                    {"stopped_early", false},
                    {"note", std::string("x")},
                    {"valid_loss", std::nan("")}};
  write_run_report(folder / "run.json", report);
  std::string text = read_file(folder / "run.json");
  json = nlohmann::json::parse(text);
  CHECK(json["finished"] == true);
  CHECK(json["results"] == nlohmann::json({{"loss_last", 0.5},
                                           {"steps", 10},
                                           {"stopped_early", false},
                                           {"note", "x"},
                                           {"valid_loss", nullptr}}));
  CHECK(text.find("loss_last") < text.find("steps\""));  // in the order given
}

TEST_CASE("this machine and this build") {
  MachineInfo machine = machine_info();
  CHECK(!machine.host.empty());
  CHECK(!machine.cpu.empty());
  CHECK(machine.usable_cores >= 1);
  CHECK(machine.cores >= machine.usable_cores);
  CHECK(machine.memory_bytes > 64u << 20);
  CHECK(!build_info().version.empty());
  CHECK(build_info().compiler.size() > 4);
  bool has_fmt = false;
  for (const auto& [name, version] : library_versions()) {
    CHECK_MESSAGE((!version.empty() && version.find('\n') == std::string::npos), name);
    has_fmt = has_fmt || name == "fmt";
  }
  CHECK(has_fmt);
}
