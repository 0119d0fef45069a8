#include <algorithm>
#include <filesystem>
#include <fstream>
#include <set>

#include <doctest/doctest.h>
#include <fcntl.h>
#include <sys/file.h>
#include <sys/wait.h>
#include <unistd.h>

#include "llmft/base/error.hpp"
#include "llmft/base/file.hpp"
#include "llmft/base/text.hpp"
#include "llmft/report/benchmarks.hpp"

using namespace llmft;
namespace fs = std::filesystem;

namespace {

const std::string kFirstHeader =  // of the first version
    "time_utc,run,host,device,version,command,precision,strategy,mode,adapter_rank,model,data,ranks,nodes,"
    "pack_tokens,"
    "batch_packs,steps,samples,tokens,supervised_tokens,samples_per_s,tokens_per_s,supervised_tokens_per_s,"
    "step_time_median_s,epoch_time_s,training_time_s,peak_memory_bytes,mfu,loss_first,loss_last,valid_loss,"
    "config_hash";
const std::string kHeader =
    kFirstHeader +
    ",machine,versions,adapter_alpha,sample_length_mean,max_length,padded_tokens_per_s,"
    "joules_per_token,vocab_size,perplexity,bleu,rouge_l";

struct Folder {
  fs::path path = fs::temp_directory_path() / ("llmft_benchmarks." + std::to_string(::getpid()));
  Folder() {
    fs::remove_all(path);
    fs::create_directories(path);
  }
  ~Folder() { fs::remove_all(path); }
  fs::path operator/(const char* name) const { return path / name; }
};

void put(const fs::path& path, const std::string& text) {
  std::ofstream(path, std::ios::binary) << text;
}

BenchmarkRow sample() {
  BenchmarkRow row;
  row.time_utc = "2026-01-31T12:00:00Z";
  row.run = "tiny";
  row.host = "node1";
  row.device = "A, B";
  row.version = "0.1.0";
  row.command = "train";
  row.precision = "bf16";
  row.strategy = "ddp";
  row.mode = "lora";
  row.adapter_rank = 8;
  row.model = "m";
  row.data = "d";
  row.ranks = 2;
  row.pack_tokens = 512;
  row.batch_packs = 4;
  row.steps = 10;
  row.samples = 100;
  row.tokens = 20000;
  row.supervised_tokens = 9000;
  row.samples_per_s = 5;
  row.tokens_per_s = 1000;
  row.supervised_tokens_per_s = 450;
  row.step_time_median_s = 2;
  row.training_time_s = 20.5;
  row.peak_memory_bytes = 123456789;
  row.loss_first = 5.5;
  row.loss_last = 0.25;
  row.config_hash = "abc";
  row.machine = "2 x X, 64 CPUs";
  row.adapter_alpha = 16;
  row.sample_length_mean = 200.5;
  row.max_length = 512;
  row.padded_tokens_per_s = 2560;
  row.vocab_size = 1024;
  return row;
}
const std::string kFirstRow =
    "2026-01-31T12:00:00Z,tiny,node1,\"A, "
    "B\",0.1.0,train,bf16,ddp,lora,8,m,d,2,1,512,4,10,100,20000,9000,5,1000,450,2,,"
    "20.5,123456789,,5.5,0.25,,abc";
const std::string kRow = kFirstRow + ",\"2 x X, 64 CPUs\",,16,200.5,512,2560,,1024,,,";

}  // namespace

TEST_CASE("the columns of the contract") {
  CHECK(benchmark_header() == kHeader);
  CHECK(to_csv(sample()) == kRow);
  CHECK(split(kHeader, ',').size() == 43);
  BenchmarkRow scores;
  scores.run = "tiny";
  scores.command = "eval";
  scores.bleu = 12.5;
  CHECK(to_csv(scores) == ",tiny,,,,eval,,,,,,,1,1,,,,,,,,,,,,,,,,,,,,,,,,,,,,12.5,");
}

TEST_CASE("a new table has its header, an existing one grows") {
  Folder folder;
  fs::path path = folder.path / "results" / "benchmarks.csv";
  append_benchmark(path, sample());
  CHECK(read_file(path) == kHeader + "\n" + kRow + "\n");
  append_benchmark(path, sample());
  CHECK(read_file(path) == kHeader + "\n" + kRow + "\n" + kRow + "\n");
  CHECK(std::distance(fs::directory_iterator(path.parent_path()), fs::directory_iterator()) == 1);

  put(path, "");
  append_benchmark(path, sample());
  CHECK(read_file(path) == kHeader + "\n" + kRow + "\n");
  put(path, kHeader + "\n" + kRow);  // saved by an editor without the last line end
  append_benchmark(path, sample());
  CHECK(read_file(path) == kHeader + "\n" + kRow + "\n" + kRow + "\n");
}

TEST_CASE("a table of other columns is refused and left as it was") {
  Folder folder;
  fs::path path = folder / "benchmarks.csv";
  for (const std::string& text : {std::string("time,run\n1,2\n"), kHeader + ",more\n", std::string("\n\n"),
                                  kFirstHeader + ",other\n", std::string("time_utc,run\n")}) {
    put(path, text);
    try {
      append_benchmark(path, sample());
      FAIL("not refused");
    } catch (const UserError& e) {
      CHECK(std::string(e.what()).find("other columns") != std::string::npos);
    }
    CHECK(read_file(path) == text);
  }
  CHECK_THROWS_AS(append_benchmark("/proc/nowhere/benchmarks.csv", sample()), UserError);
}

TEST_CASE("an older version's table gets the columns that it lacks") {
  Folder folder;
  fs::path path = folder / "benchmarks.csv";
  const std::string more = ",,,,,,,,,,,", torn = "2026,cut off";
  std::string quoted = kFirstRow;
  quoted.replace(quoted.find("A, B"), 4, "A\nB");  // a line end within a field
  for (const char* end : {"\n", "", "\r\n"}) {
    put(path, kFirstHeader + "\n" + kFirstRow + "\n" + quoted + "\n" + torn + end);
    append_benchmark(path, sample());
    append_benchmark(path, sample());
    CHECK(read_file(path) == kHeader + "\n" + kFirstRow + more + "\n" + quoted + more + "\n" + torn + more +
                                 "\n" + kRow + "\n" + kRow + "\n");
  }
  put(path, kFirstHeader + ",machine,versions\n" + kFirstRow + ",m,v\n");  // some version in between
  append_benchmark(path, sample());
  CHECK(read_file(path) == kHeader + "\n" + kFirstRow + ",m,v,,,,,,,,,\n" + kRow + "\n");
}

TEST_CASE("runs that finish at once while the table is widened lose no row") {
  Folder folder;
  fs::path path = folder / "benchmarks.csv";
  for (int round = 0; round < 20; ++round) {
    put(path, kFirstHeader + "\n" + kFirstRow + "\n");
    std::vector<pid_t> children;
    for (int p = 0; p < 6; ++p) {
      pid_t child = ::fork();
      REQUIRE(child >= 0);
      if (child == 0) {
        append_benchmark(path, sample());
        ::_exit(0);
      }
      children.push_back(child);
    }
    for (pid_t child : children) {
      int status = 1;
      REQUIRE(::waitpid(child, &status, 0) == child);
      CHECK(status == 0);
    }
    std::vector<std::string> lines = split(read_file(path), '\n');
    REQUIRE(lines.size() == 9);
    CHECK(lines[0] == kHeader);
    CHECK(std::count(lines.begin(), lines.end(), kRow) == 6);
  }
}

TEST_CASE("runs that finish at once keep whole rows and one header") {
  Folder folder;
  fs::path path = folder / "benchmarks.csv";
  constexpr int kProcesses = 8;
  constexpr int kRows = 40;
  std::vector<pid_t> children;
  for (int p = 0; p < kProcesses; ++p) {
    pid_t child = ::fork();
    REQUIRE(child >= 0);
    if (child == 0) {
      int status = 1;
      try {
        BenchmarkRow row = sample();
        for (int i = 0; i < kRows; ++i) {
          row.run = fmt::format("{}-{}-{}", p, i, std::string(static_cast<size_t>(1000 * (i % 5)), 'x'));
          append_benchmark(path, row);
        }
        status = 0;
      } catch (...) {
      }
      ::_exit(status);
    }
    children.push_back(child);
  }
  for (pid_t child : children) {
    int status = 0;
    REQUIRE(::waitpid(child, &status, 0) == child);
    CHECK(status == 0);
  }
  std::vector<std::string> lines = split(read_file(path), '\n');
  REQUIRE(lines.size() == 2 + kProcesses * kRows);
  CHECK(lines.front() == kHeader);
  CHECK(lines.back().empty());
  std::set<std::string> runs;
  for (size_t i = 1; i + 1 < lines.size(); ++i) {
    CHECK(lines[i].ends_with(",1024,,,"));
    std::vector<std::string> fields = split(lines[i], ',');
    CHECK(fields.size() == 45);  // two quoted commas
    runs.insert(fields[1]);
  }
  CHECK(runs.size() == kProcesses * kRows);
}

TEST_CASE("a row waits for the lock") {
  Folder folder;
  fs::path path = folder / "benchmarks.csv";
  append_benchmark(path, sample());
  int holder = ::open(path.c_str(), O_RDWR | O_CLOEXEC);
  REQUIRE(holder >= 0);
  REQUIRE(::flock(holder, LOCK_EX) == 0);
  pid_t child = ::fork();
  REQUIRE(child >= 0);
  if (child == 0) {
    ::close(holder);  // the lock belongs to the open file, which fork shares
    append_benchmark(path, sample());
    ::_exit(0);
  }
  ::usleep(100'000);
  CHECK(split(read_file(path), '\n').size() == 3);
  ::close(holder);
  int status = 1;
  REQUIRE(::waitpid(child, &status, 0) == child);
  CHECK(status == 0);
  CHECK(split(read_file(path), '\n').size() == 4);
}
