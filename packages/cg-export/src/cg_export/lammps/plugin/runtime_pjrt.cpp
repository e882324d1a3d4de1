// Runtime `pjrt`: the artifact's static modules, compiled and run by any library with a PJRT C interface (`GetPjrtApi`), such as
// the xla_cuda_plugin.so of the packages jax-cuda12-pjrt and jax-cuda13-pjrt. No Python is involved.

#include "artifact.h"
#include "runtime.h"

#include <stdexcept>

#if !__has_include("pjrt_c_api.h")

std::unique_ptr<cg::Runtime> cg::pjrt_runtime(const std::string &, const Artifact &, const std::string &)
{
  throw std::runtime_error("this plugin was built without the runtime pjrt: run cg-export build-plugin --pjrt-include with the folder of "
                           "pjrt_c_api.h, or use 'pair_style cg python'");
}

#else

#include "pjrt_c_api.h"

#include <algorithm>
#include <array>
#include <cstdlib>
#include <cstring>
#include <dlfcn.h>
#include <fstream>
#include <iterator>
#include <utility>
#include <vector>

namespace {

constexpr int N_ARGUMENTS = 10, N_RESULTS = 2;
// Places of the arguments that change on every step, and of the one among them that is known first.
constexpr std::array<bool, N_ARGUMENTS> CHANGES_EVERY_STEP = {true, true, false, false, false, true, true, false, false, false};
constexpr int POSITIONS = 1;

// CompileOptionsProto with executable_build_options (field 3): device_ordinal (1) -1, num_replicas (4) 1, num_partitions (5) 1.
constexpr unsigned char COMPILE_OPTIONS[] = {0x1a, 0x0f, 0x08, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff,
                                             0xff, 0xff, 0xff, 0x01, 0x20, 0x01, 0x28, 0x01};

// Every call takes a struct that states its own size; the rest is zero unless set.
template <typename T> T arguments(size_t size)
{
  T value;
  memset(&value, 0, sizeof value);
  value.struct_size = size;
  return value;
}

struct HostArray {
  void *data = nullptr;
  PJRT_Buffer_Type type = PJRT_Buffer_Type_S32;
  std::vector<int64_t> dims;
  size_t bytes() const
  {
    size_t n = type == PJRT_Buffer_Type_F64 ? 8 : 4;
    for (const int64_t d : dims) n *= static_cast<size_t>(d);
    return n;
  }
};

class PjrtRuntime : public cg::Runtime {
 public:
  PjrtRuntime(const std::string &folder, const cg::Artifact &artifact, const std::string &library) : folder(folder), artifact(artifact)
  {
    // Opened once and kept: PJRT libraries cannot be unloaded.
    void *handle = dlopen(library.c_str(), RTLD_NOW | RTLD_LOCAL);
    if (!handle) throw std::runtime_error(std::string("cannot open the PJRT library (") + dlerror() + "): check the path in pair_style cg pjrt");
    const auto get = reinterpret_cast<const PJRT_Api *(*) ()>(dlsym(handle, "GetPjrtApi"));
    if (!get) throw std::runtime_error(library + ": expected a PJRT library, found no GetPjrtApi in it");
    api = get();
    if (api->pjrt_api_version.major_version != PJRT_API_MAJOR)
      throw std::runtime_error(library + ": expected PJRT interface version " + std::to_string(PJRT_API_MAJOR) + ", received " +
                               std::to_string(api->pjrt_api_version.major_version) + ": build the plugin with the header of this library");
    auto start = arguments<PJRT_Plugin_Initialize_Args>(PJRT_Plugin_Initialize_Args_STRUCT_SIZE);
    check(api->PJRT_Plugin_Initialize(&start), "starting the library");
    auto create = arguments<PJRT_Client_Create_Args>(PJRT_Client_Create_Args_STRUCT_SIZE);
    check(api->PJRT_Client_Create(&create), "creating a client");
    client = create.client;
    auto name = arguments<PJRT_Client_PlatformName_Args>(PJRT_Client_PlatformName_Args_STRUCT_SIZE);
    name.client = client;
    check(api->PJRT_Client_PlatformName(&name), "asking for the platform");
    platform.assign(name.platform_name, name.platform_name_size);
    if (platform == "gpu") platform = "cuda";    // what some versions call it
    choose_device();
  }

  ~PjrtRuntime() override
  {
    release();
    auto destroy = arguments<PJRT_Client_Destroy_Args>(PJRT_Client_Destroy_Args_STRUCT_SIZE);
    destroy.client = client;
    ignore(api->PJRT_Client_Destroy(&destroy));
  }

  // The smallest module that holds the need; plain PJRT cannot compile other sizes than those of the artifact.
  cg::Budget plan(const cg::Budget &need, bool) override
  {
    const cg::Module *best = nullptr, *largest = nullptr;
    for (const auto &module : artifact.modules) {
      if (std::find(module.platforms.begin(), module.platforms.end(), platform) == module.platforms.end()) continue;
      if (!largest || module.budget.beads > largest->budget.beads) largest = &module;
      if (module.budget.holds(need) && (!best || module.budget.edges < best->budget.edges)) best = &module;
    }
    if (!largest) throw std::runtime_error("the artifact has no module for platform " + platform + ": export it with cg-export stablehlo, which writes modules for cpu and cuda");
    if (!best)
      throw std::runtime_error("expected a module for " + std::to_string(need.beads) + " beads and " + std::to_string(need.edges) +
                               " edges, ghosts included; the largest holds " + std::to_string(largest->budget.beads) + " and " +
                               std::to_string(largest->budget.edges) + ": export the artifact with cg-export stablehlo --budget BEADS,EDGES");
    chosen = best;
    return best->budget;
  }

  void compile(const cg::Budget &budget, const cg::Buffers &b) override
  {
    release();
    const int64_t n = budget.beads, e = budget.edges;
    const auto integers = PJRT_Buffer_Type_S32;
    const auto reals = PJRT_Buffer_Type_F64;
    for (int set = 0; set < cg::N_SETS; set++)
      host[set] = {{{b.step[set].counts, integers, {cg::N_COUNTS}},
                    {b.step[set].positions, reals, {n, 3}},
                    {b.species, integers, {n}},
                    {b.residue, integers, {n}},
                    {b.segment, integers, {n}},
                    {b.step[set].senders, integers, {e}},
                    {b.step[set].receivers, integers, {e}},
                    {b.bonds, integers, {budget.bonds, 2}},
                    {b.angles, integers, {budget.angles, 3}},
                    {b.dihedrals, integers, {budget.dihedrals, 4}}}};
    results = {{{b.energies, reals, {n}}, {b.forces, reals, {n, 3}}}};

    std::ifstream file(folder + "/" + chosen->file, std::ios::binary);
    std::string code{std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
    auto program = arguments<PJRT_Program>(PJRT_Program_STRUCT_SIZE);
    program.code = code.data();
    program.code_size = code.size();
    program.format = "mlir";
    program.format_size = 4;
    auto compile = arguments<PJRT_Client_Compile_Args>(PJRT_Client_Compile_Args_STRUCT_SIZE);
    compile.client = client;
    compile.program = &program;
    compile.compile_options = reinterpret_cast<const char *>(COMPILE_OPTIONS);
    compile.compile_options_size = sizeof COMPILE_OPTIONS;
    check(api->PJRT_Client_Compile(&compile), "compiling " + chosen->file);
    executable = compile.executable;
    // Some libraries finish compiling on the first run.
    send_positions(0);
    execute(0, true);
  }

  void acquire(int set) override
  {
    for (PJRT_Event *&event : sent[set]) wait(std::exchange(event, nullptr), "sending arguments");
  }

  void send_positions(int set) override { send(set, POSITIONS); }

  void execute(int set, bool lists_changed) override
  {
    // All transfers start before anything waits for one of them, and those of a step are waited for when its set is next filled.
    for (int k = 0; k < N_ARGUMENTS; k++)
      if (k != POSITIONS && (lists_changed || CHANGES_EVERY_STEP[k])) send(set, k);
    std::array<PJRT_Buffer *, N_ARGUMENTS> arrays;
    for (int k = 0; k < N_ARGUMENTS; k++) arrays[k] = device_arrays[CHANGES_EVERY_STEP[k] ? set : 0][k];

    auto options = arguments<PJRT_ExecuteOptions>(PJRT_ExecuteOptions_STRUCT_SIZE);
    // Donating would consume arrays that later steps use again.
    std::array<int64_t, N_ARGUMENTS> kept{};
    for (int k = 0; k < N_ARGUMENTS; k++) kept[k] = k;
    options.non_donatable_input_indices = kept.data();
    options.num_non_donatable_input_indices = kept.size();
    PJRT_Buffer *const *inputs[1] = {arrays.data()};
    std::array<PJRT_Buffer *, N_RESULTS> outputs{};
    PJRT_Buffer **output_lists[1] = {outputs.data()};
    PJRT_Event *done[1] = {nullptr};
    auto run = arguments<PJRT_LoadedExecutable_Execute_Args>(PJRT_LoadedExecutable_Execute_Args_STRUCT_SIZE);
    run.executable = executable;
    run.options = &options;
    run.argument_lists = inputs;
    run.num_devices = 1;
    run.num_args = N_ARGUMENTS;
    run.output_lists = output_lists;
    run.device_complete_events = done;
    check(api->PJRT_LoadedExecutable_Execute(&run), "running the module");

    std::array<PJRT_Event *, N_RESULTS> received{};
    for (int k = 0; k < N_RESULTS; k++) {
      auto fetch = arguments<PJRT_Buffer_ToHostBuffer_Args>(PJRT_Buffer_ToHostBuffer_Args_STRUCT_SIZE);
      fetch.src = outputs[k];
      fetch.dst = results[k].data;
      fetch.dst_size = results[k].bytes();
      check(api->PJRT_Buffer_ToHostBuffer(&fetch), "fetching results");
      received[k] = fetch.event;
    }
    for (PJRT_Event *event : received) wait(event, "fetching results");
    wait(done[0], "running the module");
    for (PJRT_Buffer *&buffer : outputs) destroy(buffer);
    // There is one set of lists, and LAMMPS's next rebuild may be on the next step.
    if (lists_changed) acquire(set);
  }

 private:
  // One MPI rank of a node for each device, by the launcher's own count.
  void choose_device()
  {
    auto ask = arguments<PJRT_Client_AddressableDevices_Args>(PJRT_Client_AddressableDevices_Args_STRUCT_SIZE);
    ask.client = client;
    check(api->PJRT_Client_AddressableDevices(&ask), "asking for devices");
    if (ask.num_addressable_devices == 0) throw std::runtime_error("the PJRT library offers no device");
    int rank = 0;
    for (const char *name : {"MPI_LOCALRANKID", "OMPI_COMM_WORLD_LOCAL_RANK", "SLURM_LOCALID"})
      if (const char *value = std::getenv(name)) {
        rank = std::atoi(value);
        break;
      }
    device = ask.addressable_devices[static_cast<size_t>(rank) % ask.num_addressable_devices];
  }

  void send(int set, int k)
  {
    PJRT_Buffer *&array = device_arrays[CHANGES_EVERY_STEP[k] ? set : 0][k];
    destroy(array);
    auto send = arguments<PJRT_Client_BufferFromHostBuffer_Args>(PJRT_Client_BufferFromHostBuffer_Args_STRUCT_SIZE);
    send.client = client;
    send.data = host[set][k].data;
    send.type = host[set][k].type;
    send.dims = host[set][k].dims.data();
    send.num_dims = host[set][k].dims.size();
    send.host_buffer_semantics = PJRT_HostBufferSemantics_kImmutableUntilTransferCompletes;
    send.device = device;
    check(api->PJRT_Client_BufferFromHostBuffer(&send), "sending arguments");
    array = send.buffer;
    sent[set][k] = send.done_with_host_buffer;
  }

  PJRT_Error *finish(PJRT_Event *event)
  {
    if (!event) return nullptr;
    auto await = arguments<PJRT_Event_Await_Args>(PJRT_Event_Await_Args_STRUCT_SIZE);
    await.event = event;
    PJRT_Error *error = api->PJRT_Event_Await(&await);
    auto done = arguments<PJRT_Event_Destroy_Args>(PJRT_Event_Destroy_Args_STRUCT_SIZE);
    done.event = event;
    ignore(api->PJRT_Event_Destroy(&done));
    return error;
  }

  void wait(PJRT_Event *event, const std::string &what) { check(finish(event), what); }

  void destroy(PJRT_Buffer *&buffer)
  {
    if (!buffer) return;
    auto destroy = arguments<PJRT_Buffer_Destroy_Args>(PJRT_Buffer_Destroy_Args_STRUCT_SIZE);
    destroy.buffer = buffer;
    ignore(api->PJRT_Buffer_Destroy(&destroy));
    buffer = nullptr;
  }

  void release()
  {
    for (int set = 0; set < cg::N_SETS; set++) {
      for (PJRT_Event *&event : sent[set]) ignore(finish(std::exchange(event, nullptr)));
      for (PJRT_Buffer *&buffer : device_arrays[set]) destroy(buffer);
    }
    if (!executable) return;
    auto destroy = arguments<PJRT_LoadedExecutable_Destroy_Args>(PJRT_LoadedExecutable_Destroy_Args_STRUCT_SIZE);
    destroy.executable = executable;
    ignore(api->PJRT_LoadedExecutable_Destroy(&destroy));
    executable = nullptr;
  }

  std::string message_of(PJRT_Error *error)
  {
    auto message = arguments<PJRT_Error_Message_Args>(PJRT_Error_Message_Args_STRUCT_SIZE);
    message.error = error;
    api->PJRT_Error_Message(&message);
    std::string text(message.message, message.message_size);
    std::replace(text.begin(), text.end(), '\n', ' ');
    return text;
  }

  void ignore(PJRT_Error *error)
  {
    if (!error) return;
    auto destroy = arguments<PJRT_Error_Destroy_Args>(PJRT_Error_Destroy_Args_STRUCT_SIZE);
    destroy.error = error;
    api->PJRT_Error_Destroy(&destroy);
  }

  void check(PJRT_Error *error, const std::string &what)
  {
    if (!error) return;
    const std::string text = message_of(error);
    ignore(error);
    throw std::runtime_error("PJRT, " + what + ": " + text);
  }

  const std::string folder;
  const cg::Artifact &artifact;
  const PJRT_Api *api = nullptr;
  PJRT_Client *client = nullptr;
  PJRT_Device *device = nullptr;
  PJRT_LoadedExecutable *executable = nullptr;
  std::string platform;
  const cg::Module *chosen = nullptr;
  // By set; lists, of which there is one, keep their device arrays in the first.
  std::array<HostArray, N_ARGUMENTS> host[cg::N_SETS];
  std::array<HostArray, N_RESULTS> results;
  std::array<PJRT_Buffer *, N_ARGUMENTS> device_arrays[cg::N_SETS] = {};
  std::array<PJRT_Event *, N_ARGUMENTS> sent[cg::N_SETS] = {};    // transfers that nothing has waited for
};

}    // namespace

std::unique_ptr<cg::Runtime> cg::pjrt_runtime(const std::string &folder, const Artifact &artifact, const std::string &library)
{
  return std::make_unique<PjrtRuntime>(folder, artifact, library);
}

#endif
