/* A stand-in for libnvidia-ml.so.1: as much of NVML as telemetry asks for, with figures
 * that tests can foresee. Device i (0-based) has (i + 1) GiB used of 80, draws 100 + i W,
 * and has the UUID GPU-a<i>000000-0000-4000-8000-00000000000<i>.
 *
 * Environment:
 *   NVML_DEVICES=4          number of cards
 *   NVML_MIG=1:2            card 1 is in MIG mode with 2 instances
 *   NVML_ERRORS=nvmlDeviceGetPowerUsage=3,nvmlInit=9
 *                           these functions return these codes; NAME=CODE@N-M in calls N to M
 *                           since nvmlInit only
 *   NVML_HANG=NAME          this function does not return
 *   NVML_CALLS=FILE         the name of each called function is appended to FILE
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

typedef struct { int card, instance; } Handle; /* instance -1: the card itself */
typedef struct { unsigned version; unsigned long long total, reserved, free, used; } MemoryV2;
typedef struct { unsigned long long total, free, used; } MemoryV1;
typedef struct { unsigned gpu, memory; } Utilization;
typedef struct { unsigned version, sensor; int celsius; } Temperature;

enum { OK = 0, INVALID = 2, NOT_SUPPORTED = 3, NOT_FOUND = 6, SMALL = 7 };
#define GIB (1ULL << 30)
#define CARDS 16
#define INSTANCES 8
static Handle handles[CARDS][INSTANCES + 1];

static int devices(void) {
    const char *text = getenv("NVML_DEVICES");
    return text ? atoi(text) : 1;
}

static int instances(int card) {
    const char *text = getenv("NVML_MIG");
    while (text && *text) {
        if (atoi(text) == card && strchr(text, ':')) return atoi(strchr(text, ':') + 1);
        text = strchr(text, ',');
        if (text) text++;
    }
    return 0;
}

static struct { char name[64]; int count; } seen[64];

/* Log the call, hang if told to, and return the code that the test wants from `name`. */
static int enter(const char *name) {
    int count = 0, i;
    for (i = 0; i < 64; i++) {
        if (!seen[i].name[0]) strncpy(seen[i].name, name, 63);
        if (!strcmp(seen[i].name, name)) { count = ++seen[i].count; break; }
    }
    const char *log = getenv("NVML_CALLS");
    if (log) {
        FILE *file = fopen(log, "a");
        if (file) { fprintf(file, "%s\n", name); fclose(file); }
    }
    const char *hang = getenv("NVML_HANG");
    if (hang && !strcmp(hang, name)) for (;;) pause();
    const char *text = getenv("NVML_ERRORS");
    size_t length = strlen(name);
    while (text && *text) {
        if (!strncmp(text, name, length) && text[length] == '=') {
            char *end;
            int code = (int)strtol(text + length + 1, &end, 10);
            if (*end != '@') return code;
            long first = strtol(end + 1, &end, 10), last = atol(end + 1);
            return count >= first && count <= last ? code : OK;
        }
        text = strchr(text, ',');
        if (text) text++;
    }
    return OK;
}

#define ENTER(name) do { int code = enter(name); if (code) return code; } while (0)

static void write_uuid(Handle *h, char *out, size_t size) {
    if (h->instance < 0)
        snprintf(out, size, "GPU-a%x000000-0000-4000-8000-%012x", h->card, h->card);
    else
        snprintf(out, size, "MIG-b%x%x00000-0000-4000-8000-%012x", h->card, h->instance, h->card);
}

int nvmlInitWithFlags(unsigned flags) {
    (void)flags;
    memset(seen, 0, sizeof seen);
    ENTER("nvmlInit");
    return OK;
}
int nvmlInit(void) { return nvmlInitWithFlags(0); }
int nvmlInit_v2(void) { return nvmlInitWithFlags(0); }
int nvmlShutdown(void) { ENTER("nvmlShutdown"); return OK; }

const char *nvmlErrorString(int code) {
    switch (code) {
        case 3: return "Not Supported";
        case 4: return "Insufficient Permissions";
        case 9: return "Driver Not Loaded";
        case 15: return "GPU is lost";
        case 18: return "Driver/library version mismatch";
        default: return "Unknown Error";
    }
}

int nvmlSystemGetDriverVersion(char *out, unsigned size) {
    ENTER("nvmlSystemGetDriverVersion");
    snprintf(out, size, "999.42");
    return OK;
}

int nvmlSystemGetNVMLVersion(char *out, unsigned size) {
    snprintf(out, size, "13.999.42");
    return OK;
}

int nvmlSystemGetCudaDriverVersion(int *version) { *version = 13010; return OK; }

int nvmlDeviceGetCount_v2(unsigned *count) {
    ENTER("nvmlDeviceGetCount");
    *count = (unsigned)devices();
    return OK;
}

int nvmlDeviceGetHandleByIndex_v2(unsigned index, Handle **out) {
    ENTER("nvmlDeviceGetHandleByIndex");
    if (index >= (unsigned)devices()) return INVALID;
    handles[index][0] = (Handle){(int)index, -1};
    *out = &handles[index][0];
    return OK;
}

int nvmlDeviceGetUUID(Handle *h, char *out, unsigned size) {
    ENTER("nvmlDeviceGetUUID");
    if (size < 41) return SMALL;
    write_uuid(h, out, size);
    return OK;
}

int nvmlDeviceGetName(Handle *h, char *out, unsigned size) {
    ENTER("nvmlDeviceGetName");
    snprintf(out, size, "Stand-in %d", h->card);
    return OK;
}

int nvmlDeviceGetMigMode(Handle *h, unsigned *current, unsigned *pending) {
    ENTER("nvmlDeviceGetMigMode");
    *current = *pending = instances(h->card) > 0;
    return OK;
}

int nvmlDeviceGetMaxMigDeviceCount(Handle *h, unsigned *count) {
    (void)h;
    *count = INSTANCES - 1;
    return OK;
}

int nvmlDeviceGetMigDeviceHandleByIndex(Handle *h, unsigned index, Handle **out) {
    ENTER("nvmlDeviceGetMigDeviceHandleByIndex");
    if ((int)index >= instances(h->card)) return NOT_FOUND;
    handles[h->card][index + 1] = (Handle){h->card, (int)index};
    *out = &handles[h->card][index + 1];
    return OK;
}

int nvmlDeviceGetGpuInstanceId(Handle *h, unsigned *id) { *id = (unsigned)h->instance + 3; return OK; }
int nvmlDeviceGetComputeInstanceId(Handle *h, unsigned *id) { (void)h; *id = 0; return OK; }

int nvmlDeviceGetMemoryInfo_v2(Handle *h, MemoryV2 *m) {
    ENTER("nvmlDeviceGetMemoryInfo_v2");
    if (m->version != 0x02000028) return 25; /* version mismatch */
    m->total = h->instance < 0 ? 80 * GIB : 10 * GIB;
    m->reserved = GIB / 2;
    m->used = h->instance < 0 ? (unsigned long long)(h->card + 1) * GIB : GIB / 4;
    m->free = m->total - m->reserved - m->used;
    return OK;
}

int nvmlDeviceGetMemoryInfo(Handle *h, MemoryV1 *m) {
    ENTER("nvmlDeviceGetMemoryInfo");
    m->total = h->instance < 0 ? 80 * GIB : 10 * GIB; /* used contains reserved here */
    m->used = (h->instance < 0 ? (unsigned long long)(h->card + 1) * GIB : GIB / 4) + GIB / 2;
    m->free = m->total - m->used;
    return OK;
}

int nvmlDeviceGetUtilizationRates(Handle *h, Utilization *u) {
    ENTER("nvmlDeviceGetUtilizationRates");
    if (h->instance >= 0) return NOT_SUPPORTED;
    u->gpu = 50 + (unsigned)h->card;
    u->memory = 20 + (unsigned)h->card;
    return OK;
}

static int whole(Handle *h) { return h->instance < 0 ? OK : NOT_SUPPORTED; }
#define CARD_ONLY(h) do { if (whole(h)) return NOT_SUPPORTED; } while (0)

int nvmlDeviceGetTemperatureV(Handle *h, Temperature *t) {
    ENTER("nvmlDeviceGetTemperatureV");
    CARD_ONLY(h);
    t->celsius = 40 + h->card;
    return OK;
}

int nvmlDeviceGetTemperature(Handle *h, int sensor, unsigned *celsius) {
    (void)sensor;
    ENTER("nvmlDeviceGetTemperature");
    CARD_ONLY(h);
    *celsius = 40 + (unsigned)h->card;
    return OK;
}

int nvmlDeviceGetPowerUsage(Handle *h, unsigned *milliwatts) {
    ENTER("nvmlDeviceGetPowerUsage");
    CARD_ONLY(h);
    *milliwatts = 1000 * (100 + (unsigned)h->card);
    return OK;
}

int nvmlDeviceGetEnforcedPowerLimit(Handle *h, unsigned *milliwatts) {
    ENTER("nvmlDeviceGetEnforcedPowerLimit");
    CARD_ONLY(h);
    *milliwatts = 700000;
    return OK;
}

/* Millijoules since long ago, at the power above: joules over a run are watts times seconds. */
int nvmlDeviceGetTotalEnergyConsumption(Handle *h, unsigned long long *millijoules) {
    struct timespec now;
    ENTER("nvmlDeviceGetTotalEnergyConsumption");
    CARD_ONLY(h);
    clock_gettime(CLOCK_REALTIME, &now);
    unsigned long long milliseconds = (now.tv_sec % 1000000) * 1000ULL + now.tv_nsec / 1000000;
    *millijoules = milliseconds * (100 + (unsigned)h->card);
    return OK;
}

int nvmlDeviceGetClockInfo(Handle *h, int kind, unsigned *mhz) {
    ENTER("nvmlDeviceGetClockInfo");
    CARD_ONLY(h);
    *mhz = (kind == 1 ? 1500 : 2600) + (unsigned)h->card; /* 1 SM, 2 memory */
    return OK;
}

int nvmlDeviceGetCurrentClocksEventReasons(Handle *h, unsigned long long *reasons) {
    ENTER("nvmlDeviceGetCurrentClocksEventReasons");
    CARD_ONLY(h);
    *reasons = h->card == 3 ? 0x41 : 0x1; /* card 3 is too hot */
    return OK;
}

int nvmlDeviceGetCurrentClocksThrottleReasons(Handle *h, unsigned long long *reasons) {
    ENTER("nvmlDeviceGetCurrentClocksThrottleReasons");
    CARD_ONLY(h);
    *reasons = 0x4;
    return OK;
}

int nvmlDeviceGetPcieThroughput(Handle *h, int direction, unsigned *kilobytes) {
    ENTER("nvmlDeviceGetPcieThroughput");
    CARD_ONLY(h);
    usleep(20000); /* as the real one: it counts over 20 ms */
    *kilobytes = direction == 0 ? 1000 : 2000; /* 0 sent, 1 received */
    return OK;
}

int nvmlDeviceGetTotalEccErrors(Handle *h, int kind, int counter, unsigned long long *count) {
    (void)counter;
    ENTER("nvmlDeviceGetTotalEccErrors");
    CARD_ONLY(h);
    *count = kind == 0 ? 7 : 0; /* 0 corrected, 1 uncorrected */
    return OK;
}

int nvmlDeviceGetCudaComputeCapability(Handle *h, int *major, int *minor) {
    (void)h;
    *major = 9;
    *minor = 0;
    return OK;
}
