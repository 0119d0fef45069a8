// Who is blamed for a standstill, and who is called slow.
#include <doctest/doctest.h>

#include "../../src/train/watchdog.hpp"

using namespace llmft;
using Reports = std::vector<std::optional<RankReport>>;

namespace {

RankReport report(int rank, uint64_t beat, uint64_t calls, bool waiting) {
  return {rank,
          "node" + std::to_string(rank / 2),
          "GPU " + std::to_string(rank % 2),
          1000 + rank,
          beat,
          7,
          1.5,
          calls,
          waiting,
          "all_reduce of 10.5 MiB",
          ""};
}

bool has(const std::string& text, const std::string& part) {
  return text.find(part) != std::string::npos;
}

}  // namespace

TEST_CASE("a report survives its line, and half a line is none") {
  RankReport r = report(3, 12, 345, true);
  r.device_call = "number 17, all_gather of 121.6 MiB";
  std::string line = to_line(r);
  RankReport back = parse_report(line).value();
  CHECK(to_line(back) == line);
  CHECK(back.device_call == r.device_call);
  CHECK(back.busy == 1.5);
  for (size_t n = 0; n + 1 < line.size(); ++n) CHECK(!parse_report(line.substr(0, n)));
}

TEST_CASE("a rank without a heartbeat is named") {
  Reports before{report(0, 10, 50, true), report(1, 10, 50, true), report(2, 10, 49, false),
                 report(3, 10, 50, true)};
  Reports after{report(0, 14, 50, true), report(1, 14, 50, true), report(2, 10, 49, false),
                report(3, 14, 50, true)};
  std::string verdict = judge(before, after);
  CHECK(has(verdict, "rank 2 (node1, GPU 0, process 1002) at step 7 gives no sign of life"));
  CHECK(has(verdict, "the others wait in all_reduce of 10.5 MiB"));
  CHECK(!has(verdict, "rank 1"));
  before[2].reset(), after[2].reset();
  CHECK(has(judge(before, after), "rank 2 has written no report"));
}

TEST_CASE("a living rank that does not join the others' collective is named") {
  Reports before{report(0, 10, 50, true), report(1, 10, 48, false)};
  Reports after{report(0, 14, 50, true), report(1, 14, 48, false)};
  after[0]->device_call = "number 9, reduce_scatter of 232.0 MiB";
  std::string verdict = judge(before, after);
  CHECK(has(verdict, "rank 1 (node0, GPU 1, process 1001) at step 7 has made 48 collective calls of 50"));
  CHECK(has(verdict, "it misses number 9, reduce_scatter of 232.0 MiB"));
  CHECK(!has(verdict, "rank 0"));
}

TEST_CASE("nobody is named while somebody goes on, and the network where all wait in one call") {
  Reports before{report(0, 10, 50, true), report(1, 10, 48, false)};
  CHECK(judge(before, Reports{report(0, 14, 50, true), report(1, 14, 49, false)}) == "");
  Reports all{report(0, 14, 50, true), report(1, 14, 50, true)};
  CHECK(has(judge(Reports{report(0, 10, 50, true), report(1, 10, 50, true)}, all), "look at the network"));
}

TEST_CASE("a straggler is who takes longer for its own work, not who waits") {
  Reports before, after;
  for (int r = 0; r < 4; ++r) {
    before.push_back(report(r, 10, 50, false));
    after.push_back(report(r, 20, 90, false));
    before.back()->busy = 100, before.back()->step = 10;
    after.back()->busy = 102 + 0.1 * r, after.back()->step = 30;
  }
  CHECK(straggler(before, after) == "");
  after[2]->busy = 104;
  std::string found = straggler(before, after);
  CHECK(has(found,
            "rank 2 (node1, GPU 0, process 1002) is a straggler: 0.200 s of own work a step, 1.90 times"));
  after[3]->step = 10;
  CHECK(straggler(before, after) == "");
  CHECK(straggler(Reports{before[0]}, Reports{after[0]}) == "");
}
